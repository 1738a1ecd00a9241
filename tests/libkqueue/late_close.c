// All that a queue consists of is closed with its descriptor, as anybody who counts descriptors expects.
// Exits with 1 where the rest is closed later, by another thread.
#include <dirent.h>
#include <stdio.h>
#include <sys/event.h>
#include <unistd.h>

static int count(void) {
    int found = 0;
    DIR* all = opendir("/dev/fd");
    while (readdir(all)) {
        ++found;
    }
    closedir(all);
    return found;
}

int main(void) {
    close(kqueue());
    sleep(1);  // what is the library's own is there by now
    int before = count();
    close(kqueue());
    int after = count();
    printf("%d descriptors before, %d after\n", before, after);
    return after != before;
}
