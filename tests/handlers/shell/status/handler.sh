echo "as asked"
exit "${NUCLIO_EVENT_PATH#/}"
