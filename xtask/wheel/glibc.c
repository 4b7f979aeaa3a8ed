// What Rust's standard library takes of glibc, in versions that glibc 2.17 has.
//
// A library that is linked on a newer system asks for that system's versions: 2.34 moved libdl and
// libpthread into libc, and 2.33 gave stat a symbol of its own. The older versions are still there,
// by name. The linker is told to wrap the functions below (--wrap), which leads their callers here.

#include <dlfcn.h>
#include <pthread.h>
#include <sys/stat.h>

// Of <sys/stat.h> before 2.33, where stat was inline.
#define STAT_VERSION 1

#define LOCAL __attribute__((visibility("hidden")))
// A function's version of the first glibc for x86-64, whichever library holds it.
#define FROM_2_2_5(result, name, parameters) \
    extern result old_##name parameters;     \
    __asm__(".symver old_" #name "," #name "@GLIBC_2.2.5")

FROM_2_2_5(void*, dlopen, (const char* file, int mode));
FROM_2_2_5(void*, dlsym, (void* library, const char* name));
FROM_2_2_5(int, dlclose, (void* library));
FROM_2_2_5(char*, dlerror, (void));
FROM_2_2_5(int, pthread_key_create, (pthread_key_t * key, void (*destroy)(void*)));
FROM_2_2_5(int, pthread_key_delete, (pthread_key_t key));
FROM_2_2_5(int, pthread_setspecific, (pthread_key_t key, const void* value));
FROM_2_2_5(int, __xstat64, (int version, const char* path, struct stat64* found));
FROM_2_2_5(int, __fxstat64, (int version, int file, struct stat64* found));

LOCAL void* __wrap_dlopen(const char* file, int mode) { return old_dlopen(file, mode); }
LOCAL void* __wrap_dlsym(void* library, const char* name) { return old_dlsym(library, name); }
LOCAL int __wrap_dlclose(void* library) { return old_dlclose(library); }
LOCAL char* __wrap_dlerror(void) { return old_dlerror(); }
LOCAL int __wrap_pthread_key_create(pthread_key_t* key, void (*destroy)(void*)) {
    return old_pthread_key_create(key, destroy);
}
LOCAL int __wrap_pthread_key_delete(pthread_key_t key) { return old_pthread_key_delete(key); }
LOCAL int __wrap_pthread_setspecific(pthread_key_t key, const void* value) {
    return old_pthread_setspecific(key, value);
}
LOCAL int __wrap_stat64(const char* path, struct stat64* found) {
    return old___xstat64(STAT_VERSION, path, found);
}
LOCAL int __wrap_fstat64(int file, struct stat64* found) {
    return old___fxstat64(STAT_VERSION, file, found);
}
