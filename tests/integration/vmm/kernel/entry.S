// Entry, ring-0 operations and the interrupt handler of the test kernel.
    .section .text.entry, "ax"
    .globl test_entry
test_entry:
    xor %ebp, %ebp
    call kernel_main
    ud2

    .text
// In ring 3, int3 leads here in ring 0 with the operation's address in RAX.
    .globl nucleus_gate
    .balign 16
nucleus_gate:
    jmp *%rax
op_wrmsr:
    mov %esi, %eax
    wrmsr
    iretq

// do_wrmsr: ECX = MSR, ESI = low word, EDX = high word; changes RAX.
    .balign 16
do_wrmsr:
    mov %cs, %eax
    test $3, %al
    jz 1f
    lea op_wrmsr(%rip), %rax
    int3
    ret
1:  mov %esi, %eax
    wrmsr
    ret

// write_msr(unsigned msr, unsigned long value)
    .globl write_msr
write_msr:
    mov %edi, %ecx
    mov %rsi, %rdx
    shr $32, %rdx
    jmp do_wrmsr

    .globl device_interrupt
    .balign 16
device_interrupt:
    push %rax
    push %rcx
    push %rdx
    push %rsi
    lock incl interrupt_count(%rip)
    mov $0x80b, %ecx        // x2APIC EOI
    xor %esi, %esi
    xor %edx, %edx
    call do_wrmsr
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rax
    iretq
    .section .note.GNU-stack, "", @progbits
