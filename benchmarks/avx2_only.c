/* Hides every instruction set beyond AVX2 from the process that preloads it and from its children (avx2_only.py).

   arch_prctl(2) has CPUID trapped. The handler of the trap answers what the processor says, but for leaf 7, where the
   bits of AVX-512, VNNI, bf16 and AMX are taken out. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

/* AVX512: F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; 4VNNIW, 4FMAPS, VP2INTERSECT;
   AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8 */
static const unsigned HIDDEN_EBX =
    1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31;
static const unsigned HIDDEN_ECX = 1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14;
static const unsigned HIDDEN_EDX =
    1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25;

typedef int set_action(int, const struct sigaction *, struct sigaction *);

/* Python's fault handler and others would take the signal away. */
int sigaction(int number, const struct sigaction *action, struct sigaction *before) {
    if (number == SIGSEGV && action != NULL) return 0;
    return ((set_action *)dlsym(RTLD_NEXT, "sigaction"))(number, action, before);
}

static void set_handler(struct sigaction action) {
    ((set_action *)dlsym(RTLD_NEXT, "sigaction"))(SIGSEGV, &action, NULL);
}

static void answer(int, siginfo_t *, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    if (code[0] != 0x0f || code[1] != 0xa2) { /* a real fault: die of it */
        set_handler((struct sigaction){.sa_handler = SIG_DFL});
        return;
    }
    unsigned leaf = registers[REG_RAX], part = registers[REG_RCX], a, b, c, d;
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __cpuid_count(leaf, part, a, b, c, d);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 7 && part == 0) {
        b &= ~HIDDEN_EBX;
        c &= ~HIDDEN_ECX;
        d &= ~HIDDEN_EDX;
    } else if (leaf == 7) {
        a = b = c = d = 0;
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void) {
    set_handler((struct sigaction){.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER});
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) != 0) {
        perror("avx2_only: this machine cannot trap CPUID");
        exit(1);
    }
}
