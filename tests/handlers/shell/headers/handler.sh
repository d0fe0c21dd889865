# A script sees what the processor tells it of its event; headers of its answers are configured.
echo "$NUCLIO_EVENT_METHOD $NUCLIO_EVENT_PATH $NUCLIO_EVENT_CONTENT_TYPE"
