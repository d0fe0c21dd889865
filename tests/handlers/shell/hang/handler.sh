if [ "$NUCLIO_EVENT_PATH" = /hang ]; then
    # A child of its own, which must not live on.
    sleep 1000 &
    echo $! >"$FOLDER/child"
    wait
fi
printf back
