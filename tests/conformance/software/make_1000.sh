# A C project of 1,000 files, built with make -j2, then touched in one place and built again.
# seconds: 600
files=${FILES:-1000}
for i in $(seq "$files"); do
    printf '#include "all.h"\nint f%d(int x) { return x + %d; }\n' "$i" "$i" >"f$i.c"
    printf 'int f%d(int);\n' "$i"
done >all.h
{ printf '#include <stdio.h>\n#include "all.h"\nint main(void) {\n    long sum = 0;\n'
  for i in $(seq "$files"); do printf '    sum += f%d(1);\n' "$i"; done
  printf '    printf("%%ld\\n", sum);\n    return 0;\n}\n'; } >main.c
cat >Makefile <<'SCRIPT'
objects := $(patsubst %.c,%.o,$(wildcard *.c))
program: $(objects)
	gcc -o $@ $(objects)
%.o: %.c all.h
	gcc -O1 -c -o $@ $<
SCRIPT
make -s -j2
sum=$((files + files * (files + 1) / 2))
test "$(./program)" = "$sum"
sed -i 's/x + 7;/x + 8;/' f7.c
make -j2 | tee again
test "$(./program)" = "$((sum + 1))"
test "$(grep -c -- '-c -o' again)" = 1
