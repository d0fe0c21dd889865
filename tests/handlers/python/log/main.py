def handler(context, event):
    context.logger.debug("d")
    context.logger.info_with("i", number=1, text="grüß")
    context.logger.warn("w")
    context.logger.error("e")
    return "logged"
