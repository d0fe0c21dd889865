case $NUCLIO_EVENT_PATH in
/exit) exit 7 ;;
/signal) kill -KILL $$ ;;
esac
printf alive
