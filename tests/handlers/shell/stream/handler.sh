case $NUCLIO_EVENT_PATH in
/five) for number in 0 1 2 3 4; do echo $number; done ;;
/broken)
    echo begun
    while [ ! -e "$FOLDER/go" ]; do sleep 0.02; done
    exit 3
    ;;
/flood)
    trap 'touch "$FOLDER/closed"; exit' TERM PIPE
    while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done
    ;;
/fails) exit 3 ;;
esac
