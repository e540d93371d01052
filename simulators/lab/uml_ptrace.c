/* Preloaded into user-mode Linux: lets kernels before 6.13 run on processors with a large XSAVE area (AVX-512, AMX).
 *
 * Such a kernel hands ptrace(PTRACE_SETREGSET, NT_X86_XSTATE) an area of the size it was compiled for.  The host wants
 * the area of its own processor, answers EINVAL, and the guest panics at its first exec.  Here the guest's state is put
 * into an area of the host's size first.  Nothing changes where the sizes agree.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

enum {
	XSTATE_BV = 512,	/* offset of the bitmap of the state components present (Intel SDM 1, 13.4.2) */
	GUEST_COMPONENTS = 0x2ff, /* x87, SSE, AVX, MPX, AVX-512, PKRU: what fits the guest's area */
};

static long (*next_ptrace)(int, pid_t, void *, void *);
static unsigned char area[64 * 1024]; /* static: the guest's kernel stacks are small, and it has one CPU */

__attribute__((constructor)) static void find_next(void)
{
	next_ptrace = (long (*)(int, pid_t, void *, void *))dlsym(RTLD_NEXT, "ptrace");
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	pid_t pid = va_arg(arguments, pid_t);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE) {
		const struct iovec *given = data;
		struct iovec whole = { area, sizeof(area) };
		if (next_ptrace(PTRACE_GETREGSET, pid, address, &whole) == 0 && whole.iov_len > given->iov_len) {
			uint64_t components;
			memcpy(area, given->iov_base, given->iov_len);
			memset(area + given->iov_len, 0, whole.iov_len - given->iov_len);
			memcpy(&components, area + XSTATE_BV, sizeof(components));
			components &= GUEST_COMPONENTS;
			memcpy(area + XSTATE_BV, &components, sizeof(components));
			return next_ptrace(request, pid, address, &whole);
		}
	}
	return next_ptrace(request, pid, address, data);
}
