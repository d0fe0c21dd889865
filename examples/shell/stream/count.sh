# With `runtimeAttributes: {stream: true}`, as in the processor.yaml beside it, each line reaches the client when it is written. When the client leaves, the
# whole process group gets SIGTERM.
trap 'exit 0' TERM
for number in 1 2 3 4 5; do
    echo "$number"
    sleep 0.2
done
