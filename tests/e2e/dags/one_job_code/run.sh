sleep 40
echo done > "$1/result.txt"
