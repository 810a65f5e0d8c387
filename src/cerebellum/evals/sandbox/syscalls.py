"""The system calls that a box answers: an allow list, made a program for the kernel's filter (seccomp, classic BPF).

A box holds one process: it starts no other, and no program. What is not in the table is refused with EPERM; a call that is newer than the
table answers ENOSYS, as an older kernel would, so that the C library takes an older one. Absent on purpose, beside all that needs rights:
io_uring, userfaultfd, perf_event_open, keyctl, bpf, ptrace and process_vm_*; mounts, namespaces and chroot; System V's segments, semaphores
and queues; setting extended attributes, file locks, memfd_create and inotify (memory that no limit of a process counts); execve, fork and
vfork; sockets, but for a connected pair of streams.
"""

from __future__ import annotations

import struct
from functools import cache

#: Name, number on x86_64, number on aarch64 (Linux 6.1: asm/unistd_64.h, asm-generic/unistd.h). "-": there is none.
TABLE = """
# Files: opened, read, written, named; which ones there are is the mounts' matter.
read 0 63; write 1 64; readv 19 65; writev 20 66; pread64 17 67; pwrite64 18 68; preadv 295 69; pwritev 296 70
preadv2 327 286; pwritev2 328 287; lseek 8 62; sendfile 40 71; copy_file_range 326 285; open 2 -; creat 85 -
openat 257 56; openat2 437 437; close 3 57; close_range 436 436; dup 32 23; dup2 33 -; dup3 292 24; fcntl 72 25
ioctl 16 29; pipe 22 -; pipe2 293 59; stat 4 -; fstat 5 80; lstat 6 -; newfstatat 262 79; statx 332 291
statfs 137 43; fstatfs 138 44; access 21 -; faccessat 269 48; faccessat2 439 439; readlink 89 -; readlinkat 267 78
getdents 78 -; getdents64 217 61; getcwd 79 17; chdir 80 49; fchdir 81 50; umask 95 166; truncate 76 45
ftruncate 77 46; fallocate 285 47; fsync 74 82; fdatasync 75 83; fadvise64 221 223; rename 82 -; renameat 264 38
renameat2 316 276; mkdir 83 -; mkdirat 258 34; rmdir 84 -; unlink 87 -; unlinkat 263 35; link 86 -; linkat 265 37
symlink 88 -; symlinkat 266 36; chmod 90 -; fchmod 91 52; fchmodat 268 53; utime 132 -; utimes 235 -; futimesat 261 -
utimensat 280 88
# Extended attributes, read alone: shutil asks for them.
getxattr 191 8; lgetxattr 192 9; fgetxattr 193 10; listxattr 194 11; llistxattr 195 12; flistxattr 196 13
# Memory: counted by RLIMIT_AS.
mmap 9 222; munmap 11 215; mprotect 10 226; mremap 25 216; brk 12 214; madvise 28 233; msync 26 227
membarrier 324 283
# This process and its threads.
clone 56 220; exit 60 93; exit_group 231 94; futex 202 98; set_robust_list 273 99; get_robust_list 274 100
set_tid_address 218 96; rseq 334 293; arch_prctl 158 -; prctl 157 167; prlimit64 302 261; getrlimit 97 163
setrlimit 160 164; getrusage 98 165; getpid 39 172; getppid 110 173; gettid 186 178; getuid 102 174; geteuid 107 175
getgid 104 176; getegid 108 177; getresuid 118 148; getresgid 120 150; getgroups 115 158; getpgid 121 155
getpgrp 111 -; getsid 124 156; getpriority 140 141; capget 125 90; sched_yield 24 124; sched_getaffinity 204 123
getcpu 309 168; wait4 61 260; waitid 247 95; uname 63 160; sysinfo 99 179; getrandom 318 278; restart_syscall 219 128
# Signals and time.
kill 62 129; tkill 200 130; tgkill 234 131; rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139
rt_sigpending 127 136; rt_sigsuspend 130 133; rt_sigtimedwait 128 137; sigaltstack 131 132; pause 34 -; alarm 37 -
getitimer 36 102; setitimer 38 103; nanosleep 35 101; clock_nanosleep 230 115; clock_gettime 228 113
clock_getres 229 114; gettimeofday 96 169; time 201 -; times 100 153
# Waiting, and pairs of connected streams: what asyncio needs.
poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72; epoll_create 213 -; epoll_create1 291 20; epoll_ctl 233 21
epoll_wait 232 -; epoll_pwait 281 22; epoll_pwait2 441 441; socketpair 53 199; sendto 44 206; recvfrom 45 207
shutdown 48 210
"""
#: Columns of the table, and the kernel's names of the processors (linux/audit.h).
MACHINES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}
#: The newest call of the table's kernel. Greater numbers are newer calls, or another convention's (x32).
NEWEST = 451

#: One condition on a call's argument: its number, a mask, the values that its lower 32 bits may have under the mask.
Check = tuple[int, int, tuple[int, ...]]
ANY = 0xFFFFFFFF
THREAD = 0x10000
#: CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
NAMESPACES = 0x80 | 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
RULES: dict[str, tuple[Check, ...]] = {
    "clone": ((0, THREAD | NAMESPACES, (THREAD,)),),
    # AF_UNIX, SOCK_STREAM: a pair of datagram sockets could be sent to an address.
    "socketpair": ((0, ANY, (1,)), (1, 0xF, (1,))),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ: no locks, no larger pipes.
    "fcntl": ((1, ANY, (0, 1, 2, 3, 4, 1030, 1032)),),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2.
    "ioctl": ((1, ANY, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)),),
    # PR_SET_NAME, PR_GET_NAME.
    "prctl": ((0, ANY, (15, 16)),),
    # Its own limits.
    "prlimit64": ((0, ANY, (0,)),),
    # Not MAP_HUGETLB.
    "mmap": ((3, 0x40000, (0,)),),
}

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
#: Codes of instructions: load a word of what describes the call, and with a mask; jump if equal, or if greater; return.
LOAD, AND, EQUAL, GREATER, RETURN = 0x20, 0x54, 0x15, 0x25, 0x06
#: Where in that description the call's number, the processor and the arguments (eight bytes each, little-endian) are.
NUMBER, ARCH, ARGUMENTS = 0, 4, 16

Instruction = tuple[int, int, int, int]


@cache
def numbers(machine: str) -> dict[str, int]:
    """The allowed calls of a processor. Raises `KeyError` for one that is not in the table."""
    column = MACHINES[machine][0]
    lines = (line for line in TABLE.splitlines() if not line.startswith("#"))
    calls = [call.split() for line in lines for call in line.split(";") if call.strip()]
    return {call[0]: int(call[column]) for call in calls if call[column] != "-"}


@cache
def allowing_filter(machine: str) -> bytes:
    """The table as a filter: 8 bytes an instruction. Raises `KeyError` for a processor that is not in the table."""
    calls = numbers(machine)
    clone3 = 435
    code = [*_of(machine), (EQUAL, 0, 1, clone3), (RETURN, 0, 0, ENOSYS)]  # the C library then takes clone
    for name in sorted(calls, key=lambda name: name in RULES):
        checked = [line for check in RULES.get(name, ()) for line in _checked(*check)] + [(RETURN, 0, 0, ALLOW)]
        code += [(EQUAL, 0, len(checked), calls[name]), *checked]
    return _packed([*code, (GREATER, 0, 1, NEWEST), (RETURN, 0, 0, ENOSYS), (RETURN, 0, 0, EPERM)])


@cache
def threadless_filter(machine: str) -> bytes:
    """A filter to lay over the other where the kernel doesn't limit the number of threads."""
    clone = numbers(machine)["clone"]
    return _packed([*_of(machine), (EQUAL, 0, 1, clone), (RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)])


def _of(machine: str) -> list[Instruction]:
    """Calls of another convention (32 bits) end the process; then the call's number is loaded."""
    return [
        (LOAD, 0, 0, ARCH),
        (EQUAL, 1, 0, MACHINES[machine][1]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
    ]


def _checked(argument: int, mask: int, values: tuple[int, ...]) -> list[Instruction]:
    """Refuse the call unless the argument is one of ``values``."""
    load: list[Instruction] = [(LOAD, 0, 0, ARGUMENTS + 8 * argument), (AND, 0, 0, mask)]
    jumps = [(EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [*load, *jumps, (RETURN, 0, 0, EPERM)]


def _packed(code: list[Instruction]) -> bytes:
    return b"".join(struct.pack("<HBBI", *line) for line in code)
