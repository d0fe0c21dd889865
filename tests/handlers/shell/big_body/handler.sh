if [ "$NUCLIO_EVENT_METHOD" = PUT ]; then
    printf %s "$(wc -c)"
else
    cat
fi
