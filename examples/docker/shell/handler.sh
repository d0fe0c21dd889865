# The event's body is on standard input; what is printed is the answer.
echo "Hello from shell"
