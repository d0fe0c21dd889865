// Log records with fields. Send `X-Nuclio-Log-Level: debug` to get them back with the answer.
exports.handler = async (context, event) => {
  context.logger.debug(`got ${event.size} bytes`)
  context.logger.infoWith('visit', { path: event.path, worker: context.workerId })
  return 'logged'
}
