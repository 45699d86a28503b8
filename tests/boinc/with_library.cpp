// A task that uses BOINC's library: counts the seconds to a number, with a checkpoint at each, and ends when the client wants it to.
//   with_library NAME SECONDS
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "boinc_api.h"

static void note(const char* what, const char* name, int at) {
    FILE* out = fopen("out.txt", "a");
    if (!out) boinc_finish(2);
    fprintf(out, "%s %s %d\n", what, name, at);
    fclose(out);
}

int main(int argc, char** argv) {
    if (argc != 3) return 64;
    boinc_init();
    int at = 0;
    if (FILE* kept = fopen("checkpoint", "r")) {
        if (fscanf(kept, "%d", &at) != 1) at = 0;
        fclose(kept);
    }
    note("begin", argv[1], at);
    while (at < atoi(argv[2])) {
        std::this_thread::sleep_for(std::chrono::seconds(1));  // sleep() ends with each signal of the library's timer
        at++;
        FILE* next = fopen("checkpoint.new", "w");
        if (!next) boinc_finish(3);
        fprintf(next, "%d\n", at);
        fclose(next);
        if (rename("checkpoint.new", "checkpoint")) boinc_finish(4);
        boinc_checkpoint_completed();
    }
    note("done", argv[1], at);
    boinc_finish(0);
}
