trap 'echo "stream closed" >&2; exit 3' TERM PIPE
line=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
case $NUCLIO_EVENT_PATH in
/five) for number in 0 1 2 3 4; do echo $number; done ;;
/broken)
    go=$(cat)
    echo begun
    while [ ! -e "$go" ]; do sleep 0.02; done
    echo "broken on purpose" >&2
    exit 3
    ;;
/flood) while :; do echo $line; done ;;
/fails) exit 3 ;;
esac
