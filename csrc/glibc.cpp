// Lets the library load on Linux with a glibc older than 2.32.
#ifdef __linux__

// The reference counts of libstdc++ read this variable of glibc 2.32: whether the process has only
// one thread. This one, which only this library sees, says that it has more.
extern "C" {
__attribute__((visibility("hidden"))) extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}

#endif
