case $NUCLIO_EVENT_PATH in
/throw) no-such-program-on-purpose ;;
/syntax) eval 'if then' ;;
/text) printf '\377\376!' ;;
/quiet) ;;
*) echo well ;;
esac
