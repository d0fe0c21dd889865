echo "first line" >&2
echo "second line" >&2
printf 'grüß without an end' >&2
echo logged
