# Nothing is started before the first event.
sleep 0.3
printf ready
