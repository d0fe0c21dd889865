"""What is slow to make is made once, before the first event: `init_context` runs when the worker starts.

`?lang=fr` in the address asks for another language.
"""


def init_context(context):
    context.user_data.greetings = {"en": "Hello", "fr": "Bonjour", "de": "Hallo"}


def handler(context, event):
    return context.user_data.greetings.get(event.fields.get("lang", "en"), "?")
