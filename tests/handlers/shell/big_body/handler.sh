if [ "$NUCLIO_EVENT_METHOD" = PUT ]; then
    wc -c
else
    cat
fi
