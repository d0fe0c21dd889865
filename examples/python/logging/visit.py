"""Log records with fields. Send `X-Nuclio-Log-Level: debug` to get them back with the answer."""


def handler(context, event):
    context.logger.debug("got %d bytes", event.size)
    context.logger.info_with("visit", path=event.path, worker=context.worker_id)
    return "logged"
