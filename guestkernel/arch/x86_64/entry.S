// Entry points of the kernel: start, system calls, exceptions, interrupts, in both privilege modes.
//
// ring-3 mode (docs/architecture.md, "Privilege modes"): the kernel runs at CPL 3. SYSCALL lands here at CPL 3;
// exceptions arrive through gates that name the ring-3 code segment, on IST1; #PF and interrupts go through ring-0
// stubs of a few instructions, each of which KVM emulates at 0.65 us; int3 enters the ring-0 nucleus. Interrupts cannot be masked.
// ring-0 mode: the same entries at CPL 0, gates name the ring-0 code segment.
//
// In both modes an exception's frame is built on IST1 and moved to the kernel stack of the running task (or
// below the interrupted kernel stack pointer) before anything else can use IST1: interrupts use IST2, and the code up
// to there cannot fault.
#include "guestkernel/arch/x86_64/offsets.hpp"

#define MAX_CPUS 64

.macro push_each registers:vararg
    .irp register, \registers
    push %\register
    .endr
.endm
.macro pop_each registers:vararg
    .irp register, \registers
    pop %\register
    .endr
.endm
// The registers of arch::UserFrame: its last ten, and all fifteen.
.macro push_rest
    push_each r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15
.endm
.macro pop_all
    pop_each r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi
.endm
// What a C++ function preserves.
.macro push_preserved
    push_each rbx, rbp, r12, r13, r14, r15
.endm
.macro pop_preserved
    pop_each r15, r14, r13, r12, rbp, rbx
.endm
// What an interrupt's C++ handler does not preserve (after rax, rcx, rdx, which the entry saves), and RBX for the entry.
.macro push_clobbered
    push_each rsi, rdi, r8, r9, r10, r11, rbx
.endm
.macro pop_clobbered
    pop_each rbx, r11, r10, r9, r8, rdi
.endm
// A program may have set AC, which opens SMAP's gate; SYSCALL clears it, gates do not.
.macro close_user_memory
    cmpb $0, joey_smap_on(%rip)
    je 9f
    clac
9:
.endm
// In ring-3 mode an exception's gate leads straight to the kernel, in the ring in which AC has accesses checked for their
// alignment; the kernel's are not aligned. RBX = the frame.
.macro end_alignment_checks
    cmpb $0, joey_ring3_mode(%rip)
    je 9f
    testb $4, FRAME_RFLAGS + 2(%rbx)
    jz 9f
    pushfq
    andl $~0x40000, (%rsp)
    popfq
9:
.endm

    .section .text.entry, "ax"

// RDI = boot block, RSI = CPU index, RSP = the CPU area's boot stack.
    .global joey_entry
joey_entry:
    xor %ebp, %ebp
    cld
    mov joey_boot_stacks(,%rsi,8), %rsp
    mov %cs, %eax
    test $3, %al
    jnz 1f
    // Selectors of ring 0's would become null at some IRETQ to a program, and the bases of FS and GS with them where the
    // CPU is one that clears those.
    xor %eax, %eax
    .irp selector, ds, es, fs, gs
    mov %eax, %\selector
    .endr
1:  call joey_start_cpu
    ud2

// --- system calls --------------------------------------------------------------------------------
// One stub per CPU, 64 bytes apart: there is no register to find the CPU by. LSTAR of CPU n = joey_syscall_stubs + 64 n.
    .balign 64
    .global joey_syscall_stubs
joey_syscall_stubs:
    .set cpu, 0
    .rept MAX_CPUS
    .balign 64
    mov %rsp, joey_syscall_slots + cpu * 16(%rip)
    mov joey_syscall_slots + cpu * 16 + 8(%rip), %rsp
    push $0x2b
    push joey_syscall_slots + cpu * 16(%rip)
    jmp syscall_common
    .set cpu, cpu + 1
    .endr

// The same for a ring-3 kernel whose SYSCALL enters ring 0 (hardware): step down to ring 3 first.
    .balign 64
    .global joey_syscall_forward_stubs
joey_syscall_forward_stubs:
    .set cpu, 0
    .rept MAX_CPUS
    .balign 64
    mov %rsp, joey_syscall_slots + cpu * 16(%rip)
    lea joey_forward_frames + cpu * 40(%rip), %rsp
    iretq
    .set cpu, cpu + 1
    .endr
    .balign 64
    .global joey_syscall_continue_stubs
joey_syscall_continue_stubs:
    .set cpu, 0
    .rept MAX_CPUS
    .balign 64
    mov joey_syscall_slots + cpu * 16 + 8(%rip), %rsp
    push $0x2b
    push joey_syscall_slots + cpu * 16(%rip)
    jmp syscall_common
    .set cpu, cpu + 1
    .endr

syscall_common:
    push %r11
    push $0x33
    push %rcx
    push %rax
    push %rdi
    push %rsi
    push %rdx
    push %rcx
    push $-38                 // rax: -ENOSYS until dispatch says otherwise (ptrace sees it)
    push_rest
    mov %rsp, %rdi
    xor %ebp, %ebp
    call joey_syscall         // interrupts are on, the direction flag is clear: SFMASK

// --- the way back -----------------------------------------------------------------------------------
// RSP may point anywhere into the task's kernel stack: the frame is found from its top. An interrupt between here and
// the IRETQ that leaves work behind moves RIP back to this label.
    .global joey_user_return, joey_user_return_end
joey_user_return:
    mov %rsp, %rdi
    and $~0x3fff, %rdi
    add $(0x4000 - 8 - FRAME_SIZE), %rdi
    mov %rdi, %rsp
    xor %ebp, %ebp
    call joey_finish_return   // does all work, returns the address of this CPU's work flags
    .global joey_user_return_window
joey_user_return_window:
    cmpl $0, (%rax)
    jne joey_user_return
    cmpb $0, joey_clear_buffers(%rip)
    jne 2f
    // SYSRET is faster than IRETQ, where it does the same: it takes RIP from RCX and RFLAGS from R11, which
    // SYSCALL left there and nothing has changed since. TF and RF are beyond it, and an RIP that is no program's would
    // fault in ring 0, with the program's RSP.
1:  cmpb $0, joey_sysret_on(%rip)
    je 3f
    mov FRAME_RCX(%rsp), %rcx
    cmp FRAME_RIP(%rsp), %rcx
    jne 3f
    mov FRAME_R11(%rsp), %r11
    cmp FRAME_RFLAGS(%rsp), %r11
    jne 3f
    test $0x10100, %r11d
    jnz 3f
    shr $47, %rcx
    jnz 3f
    cmpq $0x33, FRAME_CS(%rsp)
    jne 3f
    cmpq $0x2b, FRAME_SS(%rsp)
    jne 3f
    cli                       // an interrupt finds the frame by RSP, the program's soon
    pop_all
    mov FRAME_RSP - FRAME_ORIG_RAX(%rsp), %rsp
    sysretq
3:  pop_all
    add $8, %rsp
    .global joey_user_iretq
joey_user_iretq:              // what it does not take is the program's fault: joey_exception()
    iretq
2:  verw joey_verw_operand(%rip) // what the kernel read leaves the CPU's buffers (Intel SDM 2D, VERW)
    jmp 1b
joey_user_return_end:

// --- exceptions ----------------------------------------------------------------------------------
// Layout on IST1 when exception_common runs: rcx, rax, error code, RIP, CS, RFLAGS, RSP, SS. RAX = CR2 or 0.
    .macro VECTOR_NOERR n
    .balign 16
    push $0
    push %rax
    push %rcx
    xor %eax, %eax
    mov $\n, %ecx
    jmp exception_common
    .endm
    .macro VECTOR_ERR n
    .balign 16
    push %rax
    push %rcx
    xor %eax, %eax
    mov $\n, %ecx
    jmp exception_common
    .endm

    .balign 16
    .global joey_exception_entries
joey_exception_entries:      // 32 entries, 16 bytes each (the code fits: 2+1+1+2+5+5)
    VECTOR_NOERR 0
    VECTOR_NOERR 1
    VECTOR_NOERR 2
    VECTOR_NOERR 3
    VECTOR_NOERR 4
    VECTOR_NOERR 5
    VECTOR_NOERR 6
    VECTOR_NOERR 7
    VECTOR_ERR 8
    VECTOR_NOERR 9
    VECTOR_ERR 10
    VECTOR_ERR 11
    VECTOR_ERR 12
    VECTOR_ERR 13
    VECTOR_ERR 14
    VECTOR_NOERR 15
    VECTOR_NOERR 16
    VECTOR_ERR 17
    VECTOR_NOERR 18
    VECTOR_NOERR 19
    VECTOR_NOERR 20
    VECTOR_ERR 21
    .balign 16

// ring-3 mode: the gate of #PF enters ring 0, which alone can read CR2. The frame right above IST1 leads to page_fault_3,
// with RSP at the saved RAX.
    .global joey_page_fault_stub
joey_page_fault_stub:
    mov %rax, -8(%rsp)
    mov %cr2, %rax
    add $48, %rsp
    iretq
    .global joey_page_fault_ring3
joey_page_fault_ring3:
    push %rcx
    mov $14, %ecx
    jmp exception_common

// ring-0 mode.
    .global joey_page_fault_ring0
joey_page_fault_ring0:
    push %rax
    push %rcx
    mov %cr2, %rax
    mov $14, %ecx
    jmp exception_common

// Debug exceptions, once breakpoints were asked for (catch_breakpoints()): on IST4 and in ring 0, interrupts off. What hits
// in the kernel, which works on a program's memory, is not told to anybody, as on Linux. Not even the stack pointer is the
// kernel's then, if it is the first instruction of an entry: nothing but IST4 is touched.
    .balign 16
    .global joey_debug_stub
joey_debug_stub:
    push %rax
    push %rdx
    // stack: rdx 0, rax 8, rip 16, cs 24, rflags 32, rsp 40, ss 48
    mov %rsp, %rdx
    and $AREA_MASK, %rdx
    mov %db6, %rax
    mov %rax, AREA_DEBUG_STATUS(%rdx)
    mov $0xffff0ff0, %eax
    mov %rax, %db6
    testb $3, 24(%rsp)
    jz 1f
    cmpb $0, joey_ring3_mode(%rip)
    je 3f
    mov 16(%rsp), %rax
    cmp $joey_text_start, %rax
    jb 2f
    cmp $joey_text_end, %rax
    jae 2f
1:  pop %rdx
    pop %rax
    iretq
2:  pop %rdx                  // ring-3 mode: the frame above IST4 leads to joey_debug_exception
    pop %rax
    add $40, %rsp
    iretq
3:  pop %rdx
    pop %rax
    sti
    .balign 16
    .global joey_debug_exception
joey_debug_exception:
    VECTOR_NOERR 1

    .balign 16
exception_common:
    push %rdx
    mov %rsp, %rdx
    and $AREA_MASK, %rdx
    mov %rax, AREA_CR2(%rdx)
    mov %rcx, AREA_VECTOR(%rdx)
    // stack: rdx 0, rcx 8, rax 16, error 24, rip 32, cs 40, rflags 48, rsp 56, ss 64
    // Whose fault? In ring-0 mode the ring tells. In ring-3 mode kernel and programs share one: the kernel's own code is
    // the kernel. The upper half alone says nothing: a program may jump there, with any RSP (from_program() in traps.cpp).
    testb $3, 40(%rsp)
    jz 1f
    cmpb $0, joey_ring3_mode(%rip)
    je 3f
    mov 32(%rsp), %rax
    cmp $joey_text_start, %rax
    jb 3f
    cmp $joey_text_end, %rax
    jb 1f
3:  mov AREA_KERNEL_STACK(%rdx), %rcx
    jmp 2f
1:  mov 56(%rsp), %rcx       // the kernel faulted: go on below its stack pointer
    and $-16, %rcx
    sub $8, %rcx
2:  mov 64(%rsp), %rax
    mov %rax, -8(%rcx)
    mov 56(%rsp), %rax
    mov %rax, -16(%rcx)
    mov 48(%rsp), %rax
    mov %rax, -24(%rcx)
    mov 40(%rsp), %rax
    mov %rax, -32(%rcx)
    mov 32(%rsp), %rax
    mov %rax, -40(%rcx)
    movq $-1, -48(%rcx)       // orig_rax: not a system call
    mov %rdi, -56(%rcx)
    mov %rsi, -64(%rcx)
    mov (%rsp), %rax
    mov %rax, -72(%rcx)       // rdx
    mov 8(%rsp), %rax
    mov %rax, -80(%rcx)       // rcx
    mov 16(%rsp), %rax
    mov %rax, -88(%rcx)       // rax
    mov 24(%rsp), %rdi        // error code
    mov AREA_CR2(%rdx), %rax
    mov AREA_VECTOR(%rdx), %rsi
    lea -88(%rcx), %rsp       // from here on IST1 is free
    push_rest
    mov %rdi, %rdx            // error code
    mov %rax, %rcx            // CR2
    mov %rsp, %rdi
    mov %rsp, %rbx
    cld
    close_user_memory
    end_alignment_checks
    // a frame for backtraces: the interrupted RIP and RBP
    push FRAME_RIP(%rbx)
    push %rbp
    mov %rsp, %rbp
    call joey_exception       // (frame, vector, error code, CR2): whether a program goes on
    mov %rbx, %rsp
    test %al, %al
    jnz joey_user_return
    // back into the kernel: a fault on user memory that was served, or a fixed-up copy
    pop_all
    add $8, %rsp
    iretq

// --- the nucleus (ring-3 mode): int3 runs an operation in ring 0; RAX = its address -----------------------------
    .balign 64
    .global joey_nucleus
joey_nucleus:
    testb $0x80, 7(%rsp)
    je program_int3
    jmp *%rax

    .global joey_op_wrmsr, joey_op_cr3, joey_op_invlpg, joey_op_debug, joey_op_idle, joey_op_return
joey_op_wrmsr:                // ECX = register, ESI low, EDX high
    mov %esi, %eax
    wrmsr
    iretq
joey_op_cr3:                  // RDX = table
    mov %rdx, %cr3
    iretq
joey_op_invlpg:               // RDI = address
    invlpg (%rdi)
    iretq
joey_op_debug:                // RDX = arch::Breakpoints
    .irp n, 0, 1, 2, 3
    mov \n * 8(%rdx), %rax
    mov %rax, %db\n
    .endr
    mov $0xffff0ff0, %eax
    mov %rax, %db6
    mov 32(%rdx), %rax
    mov %rax, %db7
    iretq
joey_op_idle:                 // RDX = address of the CPU's work flags
    cmpl $0, (%rdx)
    jne 1f
    sti
    hlt
1:  iretq                     // after a HLT the interrupt handler resumes idle_rsp instead
// End of interrupt, and interrupts on for the caller, whose handler was entered with them off.
joey_op_end_interrupt:
    orl $0x200, 16(%rsp)
    mov $0x80b, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    iretq
// End of interrupt, then back to the context on IST2. RSP = AREA_RSP0_TOP - 40 here; the interrupt
// handler left rax, rcx, rdx of the context at the top of the interrupt stack.
joey_op_return:
    mov $0x80b, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    mov (AREA_IRQ_STACK_TOP - 16) - (AREA_RSP0_TOP - 40)(%rsp), %rax
    mov (AREA_IRQ_STACK_TOP - 24) - (AREA_RSP0_TOP - 40)(%rsp), %rcx
    mov (AREA_IRQ_STACK_TOP - 32) - (AREA_RSP0_TOP - 40)(%rsp), %rdx
    add $((AREA_IST2_TOP - 40) - (AREA_RSP0_TOP - 40)), %rsp
    iretq

// A program's own breakpoint: move its frame to IST1 and go on as exception 3 in ring 3. RSP = AREA_RSP0_TOP - 40.
program_int3:
    mov %rax, (AREA_IST1_TOP - 56) - (AREA_RSP0_TOP - 40)(%rsp)
    .set i, 0
    .rept 5
    mov i * 8(%rsp), %rax
    mov %rax, (AREA_IST1_TOP - 40 + i * 8) - (AREA_RSP0_TOP - 40)(%rsp)
    .set i, i + 1
    .endr
    add $((AREA_IST1_TOP + 40) - (AREA_RSP0_TOP - 40)), %rsp // the second ready-made frame above IST1
    iretq
    .global joey_breakpoint_ring3
joey_breakpoint_ring3:        // RSP at the saved RAX, as after #PF
    movq $0, 8(%rsp)
    push %rcx
    mov $3, %ecx
    xor %eax, %eax
    jmp exception_common

// --- interrupts ------------------------------------------------------------------------------------
// ring-3 mode: the handlers run with interrupts off (the ready-made frames say so, and ring 0 set them), since a second
// interrupt would overwrite the frame on IST2: the end-of-interrupt operations turn them on again. A ring-0 stub per vector selects the ready-made frame above IST2 that leads to its entry below.
    .balign 16
    .global joey_interrupt_stubs
joey_interrupt_stubs:         // 16 stubs, 16 bytes each
    .set k, 0
    .rept 16
    .balign 16
    add $(40 + k * 40), %rsp
    iretq
    .set k, k + 1
    .endr
    .balign 16
    .global joey_interrupt_entries_ring3
joey_interrupt_entries_ring3: // RSP = AREA_IRQ_STACK_TOP
    .set k, 0
    .rept 16
    .balign 16
    push $k
    push %rax
    jmp interrupt_common_ring3
    .set k, k + 1
    .endr

    .macro SAVE_SCRATCH       // after vector and rax; the order is known to joey_op_return
    push %rcx
    push %rdx
    push_clobbered
    .endm
    .macro RESTORE_SCRATCH
    pop_clobbered
    pop %rsi
    .endm

interrupt_common_ring3:
    SAVE_SCRATCH
    cld
    mov %rsp, %rbx
    and $AREA_MASK, %rbx
    mov AREA_IRQ_STACK_TOP - 8(%rbx), %rdi
    lea AREA_IST2_TOP - 40(%rbx), %rsi
    mov %rbx, %rdx
    call joey_interrupt       // (slot, frame on IST2, area) -> 0 return, 1 user with work, 2 idle
    cmp $1, %eax
    je user_interrupt_ring3
    ja idle_interrupt_ring3
    RESTORE_SCRATCH           // rdx, rcx, rax are restored in ring 0
    lea joey_op_return(%rip), %rax
    int3
    ud2

// A program was interrupted and there is work: continue on the task's kernel stack with a full frame.
user_interrupt_ring3:
    mov %rbx, %rdx
    RESTORE_SCRATCH
    // rdx = area; rdx, rcx, rax of the program still on the interrupt stack
    mov AREA_KERNEL_STACK(%rdx), %rcx
    .macro MOVE_INTERRUPT_FRAME
    mov AREA_IST2_TOP - 8(%rdx), %rax
    mov %rax, -8(%rcx)
    mov AREA_IST2_TOP - 16(%rdx), %rax
    mov %rax, -16(%rcx)
    mov AREA_IST2_TOP - 24(%rdx), %rax
    mov %rax, -24(%rcx)
    mov AREA_IST2_TOP - 32(%rdx), %rax
    mov %rax, -32(%rcx)
    mov AREA_IST2_TOP - 40(%rdx), %rax
    mov %rax, -40(%rcx)
    movq $-1, -48(%rcx)
    mov %rdi, -56(%rcx)
    mov %rsi, -64(%rcx)
    mov AREA_IRQ_STACK_TOP - 32(%rdx), %rax
    mov %rax, -72(%rcx)
    mov AREA_IRQ_STACK_TOP - 24(%rdx), %rax
    mov %rax, -80(%rcx)
    mov AREA_IRQ_STACK_TOP - 16(%rdx), %rax
    mov %rax, -88(%rcx)
    lea -88(%rcx), %rsp
    push_rest
    .endm
    MOVE_INTERRUPT_FRAME
    lea joey_op_end_interrupt(%rip), %rax // IST2 is free again
    int3
    jmp joey_user_return

// HLT was interrupted (its CS is ring 0's): nothing of it is needed any more.
idle_interrupt_ring3:
    lea joey_op_end_interrupt(%rip), %rax
    int3
resume_idle:
    mov AREA_IDLE_RSP(%rbx), %rsp
    pop_preserved
    ret

// void joey_idle_ring3(u32* flags, CpuArea's address): returns after an interrupt, or at once if there is work.
    .global joey_idle_ring3
joey_idle_ring3:
    push_preserved
    mov %rsp, AREA_IDLE_RSP(%rsi)
    mov %rdi, %rdx
    lea joey_op_idle(%rip), %rax
    int3
    pop_preserved
    ret

// void joey_idle_ring0(u32* flags): the same in ring-0 mode. An interrupt at joey_idle_hlt is one that came between STI
// and HLT: a CPU does not let it in there, but a hypervisor that forgets the shadow of STI does (seen in emulation), and
// its work would be slept through. The handler goes on behind HLT then.
    .global joey_idle_ring0, joey_idle_hlt
joey_idle_ring0:
    cli
    cmpl $0, (%rdi)
    jne 1f
    sti
joey_idle_hlt:
    hlt
    ret
1:  sti
    ret

// ring-0 mode: the entry is the gate's target, on IST2, interrupts off until the IRETQ.
    .balign 16
    .global joey_interrupt_entries_ring0
joey_interrupt_entries_ring0:
    .set k, 0
    .rept 16
    .balign 16
    push $k
    push %rax
    jmp interrupt_common_ring0
    .set k, k + 1
    .endr
interrupt_common_ring0:
    push %rcx
    mov %rsp, %rcx
    and $AREA_MASK, %rcx
    // over to the interrupt stack with the same contents: vector, rax, rcx, rdx, ...
    mov 16(%rsp), %rax
    mov %rax, AREA_IRQ_STACK_TOP - 8(%rcx)
    mov 8(%rsp), %rax
    mov %rax, AREA_IRQ_STACK_TOP - 16(%rcx)
    mov (%rsp), %rax
    mov %rax, AREA_IRQ_STACK_TOP - 24(%rcx)
    lea AREA_IRQ_STACK_TOP - 24(%rcx), %rsp
    push %rdx
    push_clobbered
    cld
    mov %rcx, %rbx
    mov AREA_IRQ_STACK_TOP - 8(%rbx), %rdi
    lea AREA_IST2_TOP - 40(%rbx), %rsi
    mov %rbx, %rdx
    call joey_interrupt
    cmp $1, %eax
    je user_interrupt_ring0
    mov $0x80b, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    mov %rbx, %rsi            // the area, while rbx is restored
    pop_clobbered
    mov AREA_IRQ_STACK_TOP - 16(%rsi), %rax
    mov AREA_IRQ_STACK_TOP - 24(%rsi), %rcx
    mov AREA_IRQ_STACK_TOP - 32(%rsi), %rdx
    lea AREA_IST2_TOP - 40(%rsi), %rsp
    push AREA_IRQ_STACK_TOP - 40(%rsi)
    pop %rsi
    iretq
user_interrupt_ring0:
    mov %rbx, %rdx
    RESTORE_SCRATCH
    mov AREA_KERNEL_STACK(%rdx), %rcx
    MOVE_INTERRUPT_FRAME
    mov $0x80b, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    close_user_memory
    sti
    jmp joey_user_return

// --- switching tasks -----------------------------------------------------------------------------------
// void joey_switch_stacks(u64* save_rsp, u64 load_rsp)
    .global joey_switch_stacks
joey_switch_stacks:
    push_preserved
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    cmpb $0, joey_fill_return_stack(%rip)
    je 1f
    // What the other task left in the CPU's stack of guessed returns is written over: 32 calls that do not return.
    .rept 32
    call 2f
    int3
2:
    .endr
    add $(32 * 8), %rsp
    lfence
1:  pop_preserved
    ret
// Where a new task's first switch returns to: RBX = entry, R12 = argument.
    .global joey_task_start
joey_task_start:
    xor %ebp, %ebp
    mov %r12, %rdi
    call __x86_indirect_thunk_rbx
    jmp joey_user_return

// --- user memory ---------------------------------------------------------------------------------------
// usize joey_copy_user(void* to, const void* from, usize bytes): the bytes not copied. REP MOVSB may fault in the middle; the
// fix-up returns RCX. The ring-0 variants open SMAP's gate around it.
    .macro USER_FIXUP at, to
    .pushsection .user_fixups, "a"
    .quad \at, \to
    .popsection
    .endm
    .balign 16
    .global joey_copy_user
joey_copy_user:
    mov %rdx, %rcx
    cmp $64, %rcx
    jb 3f
    cmpb $0, joey_smap_on(%rip)
    jne 5f
1:  rep movsb
2:  mov %rcx, %rax
    ret
    USER_FIXUP 1b, 2b
3:  cmpb $0, joey_smap_on(%rip)  // short: a plain loop of words, then bytes
    jne 5f
31: cmp $8, %rcx
    jb 33f
32: mov (%rsi), %rax
34: mov %rax, (%rdi)
    add $8, %rsi
    add $8, %rdi
    sub $8, %rcx
    jmp 31b
33: test %rcx, %rcx
    jz 2b
35: movb (%rsi), %al
36: movb %al, (%rdi)
    inc %rsi
    inc %rdi
    dec %rcx
    jmp 33b
    USER_FIXUP 32b, 2b
    USER_FIXUP 34b, 2b
    USER_FIXUP 35b, 2b
    USER_FIXUP 36b, 2b
5:  stac
6:  rep movsb
7:  clac
    mov %rcx, %rax
    ret
    USER_FIXUP 6b, 7b

// usize joey_clear_user(void* to, usize bytes)
    .balign 16
    .global joey_clear_user
joey_clear_user:
    mov %rsi, %rcx
    xor %eax, %eax
    cmpb $0, joey_smap_on(%rip)
    jne 5f
1:  rep stosb
2:  mov %rcx, %rax
    ret
    USER_FIXUP 1b, 2b
5:  stac
6:  rep stosb
7:  clac
    mov %rcx, %rax
    ret
    USER_FIXUP 6b, 7b

// i64 joey_copy_string(char* to, const char* from, usize capacity): length, capacity when there is no NUL, -1 at a fault.
    .balign 16
    .global joey_copy_string
joey_copy_string:
    xor %eax, %eax
    cmpb $0, joey_smap_on(%rip)
    je 1f
    stac
1:  cmp %rdx, %rax
    jae 4f
2:  movb (%rsi,%rax), %cl
    movb %cl, (%rdi,%rax)
    test %cl, %cl
    jz 4f
    inc %rax
    jmp 1b
3:  mov $-1, %rax
4:  cmpb $0, joey_smap_on(%rip)
    je 5f
    clac
5:  ret
    USER_FIXUP 2b, 3b

// bool joey_compare_exchange_user(u32* address, u32 expected, u32 desired, u32* found)
    .balign 16
    .global joey_compare_exchange_user
joey_compare_exchange_user:
    mov %rcx, %r8
    mov %esi, %eax
    cmpb $0, joey_smap_on(%rip)
    je 1f
    stac
1:  lock cmpxchg %edx, (%rdi)
    mov %eax, (%r8)
    mov $1, %eax
2:  cmpb $0, joey_smap_on(%rip)
    je 3f
    clac
3:  ret
4:  xor %eax, %eax
    jmp 2b
    USER_FIXUP 1b, 4b

// --- where does SYSCALL land? --------------------------------------------------------------------------------
// LSTAR points here for one SYSCALL at boot. R11 = RFLAGS, RCX = return address; answers CS in EAX, always at CPL 3.
    .balign 16
    .global joey_syscall_probe
joey_syscall_probe:
    mov %cs, %eax
    test $3, %al
    jnz 1f
    mov %rsp, %rdx
    mov %rcx, %rsi
    movabs $(AREA_BASE + AREA_RSP0_TOP), %rsp
    push $0x2b
    push %rdx
    push %r11
    push $0x33
    push %rsi
    iretq
1:  jmp *%rcx

    .section .bss
    .balign 64
    .global joey_syscall_slots, joey_forward_frames, joey_boot_stacks
joey_syscall_slots:           // per CPU: the program's RSP while entering, the kernel stack's top
    .skip MAX_CPUS * 16
joey_forward_frames:
    .skip MAX_CPUS * 40
    .section .data
    .balign 8
joey_boot_stacks:             // CPU 0's; the others' are set before they start
    .quad joey_boot_task_stack + 0x4000 - 8
    .skip (MAX_CPUS - 1) * 8
    .global joey_smap_on, joey_sysret_on
joey_smap_on: .byte 0
joey_sysret_on: .byte 0      // ring-0 mode
    .global joey_clear_buffers, joey_fill_return_stack // speculation.cpp sets them
joey_clear_buffers: .byte 0
joey_fill_return_stack: .byte 0
    .balign 2
joey_verw_operand: .word 0x18 // the kernel's data segment
    .section .note.GNU-stack, "", @progbits
