# The body is standard input, what is written is the answer; an exit status other than 0 makes it a 500.
name=$(cat)
echo "Hello, ${name:-world}"
