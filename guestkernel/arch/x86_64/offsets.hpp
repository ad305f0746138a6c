// Layout that assembly and C++ share: plain numbers, asserted against the C++ structs in
// machine.cpp.
#pragma once

// TrapFrame
#define FRAME_SIZE 168
#define FRAME_R11 48
#define FRAME_RAX 80
#define FRAME_RCX 88
#define FRAME_ORIG_RAX 120
#define FRAME_RIP 128
#define FRAME_CS 136
#define FRAME_RFLAGS 144
#define FRAME_RSP 152
#define FRAME_SS 160

// The per-CPU area (boot/protocol/layout.hpp): 32 KiB, aligned to its size, in the direct map.
#define AREA_SIZE 0x8000
#define AREA_MASK 0xffffffffffff8000
#define AREA_BASE 0xffff888000100000
#define AREA_DATA 0x2000          // struct CpuArea
#define AREA_KERNEL_STACK 0x2000  // CpuArea::kernel_stack_top
#define AREA_CR2 0x2008           // CpuArea::exception_cr2
#define AREA_VECTOR 0x2010        // CpuArea::exception_vector
#define AREA_IDLE_RSP 0x2018      // CpuArea::idle_rsp
#define AREA_DEBUG_STATUS 0x2020  // CpuArea::debug_status
#define AREA_RSP0_TOP 0x2a00      // ring-0 stack of the nucleus; grows down
#define AREA_IST1_TOP 0x2d00      // exceptions; a ready-made frame sits right above it
#define AREA_IST2_TOP 0x3000      // interrupts; 16 ready-made frames of 40 bytes above it
#define AREA_IST4_TOP 0x3500      // debug exceptions; a ready-made frame sits right above it
#define AREA_IST3_TOP 0x3800      // double fault
#define AREA_IRQ_STACK_TOP 0x6000 // ring-3 (or ring-0 mode) interrupt handlers
#define AREA_BOOT_STACK_TOP 0x8000
