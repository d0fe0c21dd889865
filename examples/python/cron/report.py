"""Called by timers: every ten seconds, and on weekdays at half past two in the morning. See README.md."""


def handler(context, event):
    if event.body == b"warm up":
        context.logger.info("Started")
        return
    # When it was to come, which may be a moment ago; ticks that were missed since the last one. Requests have neither.
    scheduled, missed = event.fields.get("scheduledTime"), event.fields.get("missed")
    context.logger.info_with("Tick", trigger=event.trigger.name, scheduled=scheduled, missed=missed)
