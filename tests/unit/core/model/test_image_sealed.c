/* The image in sealed memory: who attaches it, who is refused, who can change it (nobody). */
#define _GNU_SOURCE /* memfd_create, seals */
#include "core/model/image.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/model/image_memory.h"
#include "core/model/source.h"
#include "tests/test.h"
#include "tests/unit/core/model/model_files.h"

enum { ALL_SEALS = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

static struct model_image *pack_tiny(void)
{
    struct err err = {0};
    char *dir = model_files_dir();
    model_files_write_text(dir, "config.json", model_files_config);
    model_files_write_tensors(dir, "model.safetensors", model_files_tensors,
                              MODEL_FILES_TENSORS);
    struct source *src = source_open(dir, &err);
    struct model_image *image = src ? image_pack(src, DTYPE_F32, &err) : NULL;
    source_free(src);
    model_files_remove(dir);
    return image;
}

static size_t weight_place(const struct model_image *image)
{
    return image_tensor(image, ROLE_DOWN, 0)->offset + 4;
}

/* Other memory with the image's bytes, one of them changed, under the given seals. */
static int copy_with(const struct model_image *image, size_t place, int seals)
{
    struct err err = {0};
    struct par *par = par_new(1);
    int fd = image_memory_new(image->bytes, par, &err);
    par_free(par);
    unsigned char *p = image_memory_map_writable(fd, image->bytes, &err);
    memcpy(p, image->base, image->bytes);
    p[place] ^= 1;
    image_memory_unmap(p, image->bytes);
    if (fcntl(fd, F_ADD_SEALS, seals) < 0)
        test_fail(__FILE__, __LINE__, "seals %x are refused", (unsigned)seals);
    return fd;
}

TEST(image_is_attached_from_its_descriptor)
{
    struct err err = {0};
    struct model_image *image = pack_tiny();
    ASSERT(image != NULL);
    EXPECT_EQ(fcntl(image->fd, F_GET_SEALS) & ALL_SEALS, ALL_SEALS);
    EXPECT_EQ(fcntl(image->fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    struct model_image *again = image_attach(fcntl(image->fd, F_DUPFD_CLOEXEC, 0), &err);
    ASSERT(again != NULL);
    EXPECT(again->base != image->base && again->bytes == image->bytes);
    EXPECT_EQ(memcmp(again->base, image->base, image->bytes), 0);
    EXPECT_EQ(image_check_digest(again, &err), 0);
    image_free(image);
    EXPECT_EQ(image_check_digest(again, &err), 0);
    image_free(again);
}

static void expect_refused(int fd, const char *says)
{
    struct err err = {0};
    if (image_attach(fd, &err) || !strstr(err.msg, says))
        test_fail(__FILE__, __LINE__, "got \"%s\", expected \"%s\"", err.msg, says);
    EXPECT_EQ(close(fd), 0); /* it stayed the caller's */
}

TEST(image_attach_wants_every_seal)
{
    static const int each[] = {F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL};
    struct model_image *image = pack_tiny();
    ASSERT(image != NULL);
    size_t last = image->bytes - 1; /* padding: the copy is as good as the image */
    struct err err = {0};
    struct model_image *good = image_attach(copy_with(image, last, ALL_SEALS), &err);
    EXPECT(good != NULL);
    image_free(good);
    expect_refused(copy_with(image, last, 0), "not sealed");
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        expect_refused(copy_with(image, last, ALL_SEALS & ~each[i]), "not sealed");
    int no_memfd[2]; /* has no seals at all */
    ASSERT(pipe(no_memfd) == 0);
    close(no_memfd[1]);
    expect_refused(no_memfd[0], "not sealed");
    image_free(image);
}

TEST(image_attach_refuses_what_was_tampered_with)
{
    struct err err = {0};
    struct model_image *image = pack_tiny();
    ASSERT(image != NULL);
    expect_refused(copy_with(image, 0, ALL_SEALS), "not a model image");
    expect_refused(copy_with(image, offsetof(struct image_header, version), ALL_SEALS),
                   "version");
    expect_refused(copy_with(image, offsetof(struct image_header, table_offset), ALL_SEALS),
                   "table is damaged");
    struct model_image *other =
        image_attach(copy_with(image, weight_place(image), ALL_SEALS), &err);
    ASSERT(other != NULL);
    EXPECT_EQ(image_check_digest(other, &err), -1);
    EXPECT(strstr(err.msg, "not those of its digest") != NULL);
    image_free(other);
    image_free(image);
}

/* ---- writing ------------------------------------------------------------------------- */

enum { SAW_FAULT = 7, WROTE = 8, WAS_REFUSED = 9 };

static void on_fault(int signum)
{
    (void)signum;
    _exit(SAW_FAULT);
}

/* What a child gets that writes to the mapping, the last thing it does. */
static int write_in_child(volatile unsigned char *at, bool unprotects)
{
    pid_t pid = fork();
    if (pid == 0) {
        long page = sysconf(_SC_PAGESIZE);
        unsigned char *start =
            (unsigned char *)((uintptr_t)at & ~(uintptr_t)(page - 1));
        signal(SIGSEGV, on_fault);
        signal(SIGBUS, on_fault);
        if (unprotects && mprotect(start, (size_t)page, PROT_READ | PROT_WRITE) < 0)
            _exit(WAS_REFUSED);
        *at ^= 1;
        _exit(WROTE);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(image_cannot_be_changed_for_others)
{
    struct err err = {0};
    struct model_image *image = pack_tiny();
    ASSERT(image != NULL);
    size_t place = weight_place(image);
    volatile unsigned char *weight = (unsigned char *)(uintptr_t)image->base + place;
    unsigned char before = *weight;
    EXPECT_EQ(write_in_child(weight, false), SAW_FAULT);
    int forced = write_in_child(weight, true);
    EXPECT(forced == WROTE || forced == WAS_REFUSED);
    EXPECT_EQ(*weight, before);
    EXPECT_EQ(image_check_digest(image, &err), 0);
    image_free(image);
}

/* As on kernels before 6.7: there the write succeeds, in that process alone. */
TEST(image_mapped_privately_is_copied_by_a_writer)
{
    struct err err = {0};
    struct model_image *image = pack_tiny();
    ASSERT(image != NULL);
    size_t place = weight_place(image);
    unsigned char *own = mmap(NULL, image->bytes, PROT_READ, MAP_PRIVATE, image->fd, 0);
    ASSERT(own != MAP_FAILED);
    struct model_image as_mapped = {own, image->bytes, image->fd};
    EXPECT_EQ(image_check(&as_mapped, &err), 0);
    EXPECT_EQ(write_in_child(own + place, false), SAW_FAULT);
    EXPECT_EQ(write_in_child(own + place, true), WROTE);
    EXPECT_EQ(mprotect(own, image->bytes, PROT_READ | PROT_WRITE), 0);
    own[place] ^= 1;
    EXPECT_EQ(image_check_digest(&as_mapped, &err), -1);
    EXPECT_EQ(image_check_digest(image, &err), 0);
    munmap(own, image->bytes);
    image_free(image);
}

TEST(image_refuses_other_ways_to_write)
{
    struct model_image *image = pack_tiny();
    ASSERT(image != NULL);
    size_t bytes = image->bytes;
    EXPECT_EQ(pwrite(image->fd, "x", 1, (off_t)weight_place(image)), -1);
    EXPECT_EQ(ftruncate(image->fd, 64), -1);
    EXPECT_EQ(ftruncate(image->fd, (off_t)bytes * 2), -1);
    EXPECT_EQ(fallocate(image->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                        (off_t)bytes),
              -1);
    EXPECT(mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, image->fd, 0) ==
           MAP_FAILED);
    EXPECT_EQ(fcntl(image->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
    image_free(image);
}
