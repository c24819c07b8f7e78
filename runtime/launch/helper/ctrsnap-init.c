// ctrsnap-init forks the first processes of containers, and those that join one, for the launcher that has started it
// (helper.go, which says what the two tell each other). It has no libc and next to no memory: so has a child of it, until
// it executes its program. What the child needs in a container's cgroup is a few pages, and whoever the kernel kills for
// want of them, it is the child alone.
//
// It allocates nothing and has no state but descriptors. Whatever it does not expect ends it; the launcher starts another.
#include <linux/close_range.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/time_types.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>

// Descriptors. helper.go knows SOCKET to be the first of os/exec's ExtraFiles, and FIRST.
enum { SOCKET = 3, OWN_NET, OWN_PID, FIRST };

// The most that one message carries: SCM_MAX_FD of the kernel.
enum { FILES = 253 };

// KEEP in place of the number of a system call has this process stay, see keep. It is keepFirst of helper.go.
#define KEEP (~0ull)

// As libc's headers have them, which there are none of here.
enum { SIGCHLD_ = 17, WNOHANG_ = 1, WALL_ = 0x40000000 };
static const uint64_t all_signals = ~0ull;

// An order is a process to be forked. It comes with its files, which get the numbers from FIRST on, and is followed by
// size bytes, whose place in memory is the launcher's choice, so that it knows all addresses: data, the calls of the child,
// and those that we make for it, in its directory of /proc and with its number as the saved result, before we let it go on.
struct order {
	uint64_t flags;   // of clone3
	uint64_t address; // of what follows
	uint64_t calls;   // their address
	uint32_t size;    // of what follows
	uint32_t count;   // of calls of the child
	uint32_t ours;    // of calls that we make for it
	uint32_t files;
	uint32_t status;  // descriptor for the child's report
	uint32_t go;      // descriptor by which we let it go on
	uint32_t net;     // descriptor of the network namespace to fork in; 0 is our own
	uint32_t pid;     // the same for the PID namespace
};

// An answer has the number of the child, if there is one. An error is of clone3, or of that call of ours.
struct answer { uint32_t pid, call, error; };

// A call is one system call, and where to go on: see call in helper.go.
struct call {
	uint64_t nr;
	uint64_t args[6];
	uint64_t inside;    // address of what must be '/' afterwards
	int32_t ignore[3];  // errors that are none
	int32_t branch[3];  // calls to leave out after each of them
	uint8_t use;        // bits: arguments that are the saved result
	uint8_t save;       // keep the result
	uint8_t some;       // a result of 0 is an error: the other end is gone
	uint8_t unused;
};

struct report { uint32_t call, error; };

static long syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
#if defined __x86_64__
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		: "rcx", "r11", "memory");
	return result;
#elif defined __aarch64__
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#else
#error "the system calls of this architecture are to be added"
#endif
}

#define SYSCALL(nr, a, b, c, d, e) syscall6((nr), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static _Noreturn void quit(int code)
{
	for (;;)
		SYSCALL(SYS_exit_group, code, 0, 0, 0, 0);
}

// wait_for waits for a signal, for a while or, with 0, without end. All are blocked, so that none is lost.
static long wait_for(long milliseconds)
{
	struct __kernel_timespec limit = { .tv_nsec = milliseconds * 1000000 };
	return SYSCALL(SYS_rt_sigtimedwait, &all_signals, 0, milliseconds ? &limit : 0, sizeof all_signals, 0);
}

// alone waits until a server has ended in order and no process is left beside us in the container: until then one that was
// started by another process, as pg_ctl does, takes its place. A server that ends otherwise ends the container. Signals are
// passed on.
static void alone(long server, int in_order)
{
	for (;;) {
		long got = wait_for(server ? 0 : 20);
		if (got > 0 && got != SIGCHLD_)
			SYSCALL(SYS_kill, server ? server : -1, got, 0, 0, 0);
		int status;
		long pid;
		while ((pid = SYSCALL(SYS_wait4, -1, &status, WNOHANG_ | WALL_, 0, 0)) > 0) {
			if (pid != server)
				continue;
			int code = status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff;
			if (code != in_order)
				quit(code);
			server = 0;
		}
		if (!server && SYSCALL(SYS_kill, -1, 0, 0, 0, 0) == -ESRCH)
			return;
	}
}

static int64_t now(void)
{
	struct __kernel_timespec t = { 0 };
	SYSCALL(SYS_clock_gettime, 1, &t, 0, 0, 0); // CLOCK_MONOTONIC
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// keep stays as the first process of a container, whose PID namespace is gone without one, and returns in a child, which
// becomes the server. One that has ended with the code of an end in order is started again, unless it ends at once each time.
static void keep(int in_order)
{
	static const char again[] = "ctrsnap: the server has ended in order and is started again\n";
	uint64_t none = 0;
	SYSCALL(SYS_rt_sigprocmask, 2, &all_signals, 0, sizeof all_signals, 0); // SIG_SETMASK
	for (int quick = 0; quick < 20;) {
		int64_t begun = now();
		long server = SYSCALL(SYS_clone, SIGCHLD_, 0, 0, 0, 0);
		if (server == 0) {
			SYSCALL(SYS_rt_sigprocmask, 2, &none, 0, sizeof none, 0);
			SYSCALL(SYS_setsid, 0, 0, 0, 0, 0);
			return;
		}
		if (server < 0)
			quit(126);
		SYSCALL(SYS_close_range, SOCKET, ~0u, 0, 0, 0); // the pipes to the launcher
		alone(server, in_order);
		quick = now() - begun < 100 ? quick + 1 : 0;
		SYSCALL(SYS_write, 2, again, sizeof again - 1, 0, 0);
	}
	quit(in_order);
}

// make makes calls, and returns which one has failed.
static struct report make(const struct call *calls, uint32_t count, long saved)
{
	for (uint32_t i = 0; i < count; i++) {
		const struct call *c = &calls[i];
		if (c->nr == KEEP) {
			keep((int)c->args[0]);
			continue;
		}
		long a[6];
		for (int j = 0; j < 6; j++)
			a[j] = c->use & 1 << j ? saved : (long)c->args[j];
		long result = syscall6((long)c->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
		int error = result < 0 && result >= -4095 ? (int)-result : 0;
		if (!error && c->save)
			saved = result;
		if (!error && c->some && result == 0)
			error = EPIPE;
		if (!error && c->inside && *(const volatile char *)c->inside != '/')
			error = ENOENT;
		if (!error)
			continue;
		int j = 0;
		while (j < 3 && c->ignore[j] != error)
			j++;
		if (j == 3)
			return (struct report){ i, (uint32_t)error };
		i += (uint32_t)c->branch[j];
	}
	return (struct report){ count, 0 };
}

// run makes the calls of a child, and does not return: the last one is an execve.
static _Noreturn void run(const struct order *o)
{
	SYSCALL(SYS_close, o->go, 0, 0, 0, 0); // so that it sees the end of who would let it go on
	struct report failed = make((const struct call *)o->calls, o->count, 0);
	SYSCALL(SYS_write, o->status, &failed, sizeof failed, 0, 0);
	quit(127);
}

// adopt makes the calls for a child that take our rights, and lets it go on.
static struct report adopt(const struct order *o, long pid)
{
	char path[] = "/proc/0000000000";
	char *digit = path + sizeof path - 1;
	long result;
	struct report failed;
	for (long n = pid; n; n /= 10)
		*--digit = (char)('0' + n % 10);
	for (char *to = path + sizeof "/proc"; (*to++ = *digit++);)
		;
	result = SYSCALL(SYS_chdir, path, 0, 0, 0, 0);
	if (result)
		return (struct report){ o->ours, (uint32_t)-result };
	failed = make((const struct call *)o->calls + o->count, o->ours, pid);
	if (!failed.error)
		SYSCALL(SYS_write, o->go, "", 1, 0, 0);
	SYSCALL(SYS_chdir, "/", 0, 0, 0, 0);
	return failed;
}

// fork makes a child of the launcher, in the namespaces of the order, and returns its number or an error.
static long fork(const struct order *o)
{
	struct clone_args args = { .flags = o->flags | CLONE_PARENT };
	long result = 0;
	if (o->net)
		result = SYSCALL(SYS_setns, o->net, CLONE_NEWNET, 0, 0, 0);
	if (!result && o->pid)
		result = SYSCALL(SYS_setns, o->pid, CLONE_NEWPID, 0, 0, 0);
	if (!result) {
		result = SYSCALL(SYS_clone3, &args, sizeof args, 0, 0, 0);
		if (result == 0)
			run(o);
	}
	return result;
}

// leave goes back to our own namespaces.
static long leave(const struct order *o)
{
	long result = 0;
	if (o->net)
		result = SYSCALL(SYS_setns, OWN_NET, CLONE_NEWNET, 0, 0, 0);
	if (!result && o->pid)
		result = SYSCALL(SYS_setns, OWN_PID, CLONE_NEWPID, 0, 0, 0);
	return result;
}

// receive gets an order, its files and what follows. The launcher's end ends us.
static void receive(struct order *o)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(FILES * sizeof(int))];
	} control;
	struct iovec iov = { o, sizeof *o };
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control,
	};
	long n = SYSCALL(SYS_recvmsg, SOCKET, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL, 0, 0);
	if (n == 0)
		quit(0);
	if (n != sizeof *o || message.msg_flags & MSG_CTRUNC || message.msg_controllen < sizeof control.header)
		quit(1);
	if (control.header.cmsg_type != SCM_RIGHTS || control.header.cmsg_len != CMSG_LEN(o->files * sizeof(int)))
		quit(1);
	const int *files = (const int *)CMSG_DATA(&control.header);
	for (uint32_t i = 0; i < o->files; i++)
		if (files[i] != (int)(FIRST + i))
			quit(1);
	long at = syscall6(SYS_mmap, (long)o->address, o->size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (at != (long)o->address)
		quit(1);
	for (uint32_t have = 0; have < o->size; have += (uint32_t)n) {
		n = SYSCALL(SYS_read, SOCKET, o->address + have, o->size - have, 0, 0);
		if (n <= 0)
			quit(1);
	}
}

// begin gives us nothing but what os/exec has left, and our own namespaces. Whoever executes this file by /proc/self/exe in
// a container has no such socket.
static void begin(void)
{
	int kind;
	unsigned int size = sizeof kind;
	if (SYSCALL(SYS_getsockopt, SOCKET, SOL_SOCKET, SO_DOMAIN, &kind, &size) || kind != AF_UNIX)
		quit(126);
	SYSCALL(SYS_close_range, OWN_NET, ~0u, 0, 0, 0);
	SYSCALL(SYS_prctl, PR_SET_NAME, "ctrsnap-init", 0, 0, 0); // by which helper.go knows a child that runs no program yet
	SYSCALL(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);          // nobody looks into it, nor into a child of it
	if (SYSCALL(SYS_fcntl, SOCKET, F_SETFD, FD_CLOEXEC, 0, 0) ||
	    SYSCALL(SYS_openat, AT_FDCWD, "/proc/self/ns/net", O_RDONLY | O_CLOEXEC, 0, 0) != OWN_NET ||
	    SYSCALL(SYS_openat, AT_FDCWD, "/proc/self/ns/pid", O_RDONLY | O_CLOEXEC, 0, 0) != OWN_PID)
		quit(1);
}

#if defined __x86_64__
__attribute__((force_align_arg_pointer)) // the kernel leaves it as no caller does
#endif
_Noreturn void _start(void)
{
	begin();
	for (;;) {
		struct order o;
		receive(&o);
		long pid = fork(&o);
		struct answer answer = { .pid = pid > 0 ? (uint32_t)pid : 0, .error = pid < 0 ? (uint32_t)-pid : 0 };
		if (pid > 0 && o.ours) {
			struct report failed = adopt(&o, pid);
			answer.call = failed.call;
			answer.error = failed.error;
		}
		SYSCALL(SYS_close, o.status, 0, 0, 0, 0); // the launcher waits for its end: the rest can be done behind its back
		if (SYSCALL(SYS_write, SOCKET, &answer, sizeof answer, 0, 0) != sizeof answer || leave(&o))
			quit(1);
		SYSCALL(SYS_munmap, o.address, o.size, 0, 0, 0);
		SYSCALL(SYS_close_range, FIRST, ~0u, 0, 0, 0);
	}
}
