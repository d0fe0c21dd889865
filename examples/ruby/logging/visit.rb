# Log records with fields. Send `X-Nuclio-Log-Level: debug` to get them back with the answer.
def handler(context, event)
  context.logger.debug("got #{event.body.bytesize} bytes")
  context.logger.info('visit', path: event.path, worker: context.worker_id)
  'logged'
end
