// Where indirect branches go (-mindirect-branch=thunk-extern): one thunk per register. As linked they are plain jumps. On a
// CPU that lets programs train its guesses about them, speculation.cpp copies the retpoline over: a call whose guessed
// return address is a loop, and whose true one is the target.

    .macro registers macro
    .irp register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
    \macro \register
    .endr
    .endm

    .macro thunk register
    .balign 32, 0xcc
    .global __x86_indirect_thunk_\register
__x86_indirect_thunk_\register:
    jmp *%\register
    .endm

    .macro retpoline register
    .balign 32, 0xcc
    call 2f
1:  pause
    lfence
    jmp 1b
2:  mov %\register, (%rsp)
    ret
    .endm

    .section .text.thunks, "ax"
    .balign 32, 0xcc
    .global joey_thunks, joey_thunks_end
joey_thunks:
    registers thunk
    .balign 32, 0xcc
joey_thunks_end:

    .section .rodata.retpolines, "a"
    .balign 32, 0xcc
    .global joey_retpolines, joey_retpolines_end
joey_retpolines:
    registers retpoline
    .balign 32, 0xcc
joey_retpolines_end:
    .section .note.GNU-stack, "", @progbits
