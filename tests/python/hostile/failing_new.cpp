// For LD_PRELOAD: operator new fails, from the `fails_first` to the `fails_last` time that it is asked. 0:
// never.

#include <cstdlib>
#include <new>

extern "C" {
long asked = 0, fails_first = 0, fails_last = 0;
}

namespace {

void* allocate(std::size_t size) noexcept {
    if (fails_first != 0 && ++asked >= fails_first && asked <= fails_last) {
        return nullptr;
    }
    return std::malloc(size != 0 ? size : 1);
}

}  // namespace

void* operator new(std::size_t size) {
    void* const memory = allocate(size);
    if (memory == nullptr) {
        throw std::bad_alloc();
    }
    return memory;
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
