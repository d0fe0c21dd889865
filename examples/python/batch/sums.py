"""A batch: the handler gets a list of events and returns a list of answers, each naming the event it is for."""


def handler(context, events):
    context.logger.info_with("A batch", events=len(events))
    answers = []
    for event in events:
        try:
            body, status = str(sum(int(word) for word in (event.body or b"").split())), 200
        except ValueError:
            body, status = "numbers only, please", 400
        answers.append(context.Response(body=body, status_code=status, event_id=event.id))
    return answers
