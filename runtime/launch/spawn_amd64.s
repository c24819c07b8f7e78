#include "textflag.h"

// func spawn(args *cloneArgs, program []call, status uintptr) (pid int, errno uintptr)
//
// The child begins on the stack of args and never returns. What it needs is in
// registers that the system call leaves alone.
TEXT ·spawn(SB), NOSPLIT, $0-56
	MOVQ args+0(FP), DI
	MOVQ $88, SI // CLONE_ARGS_SIZE_VER2
	MOVQ program_base+8(FP), R12
	MOVQ program_len+16(FP), R13
	MOVQ status+32(FP), R15
	MOVQ $435, AX // clone3
	SYSCALL
	TESTQ AX, AX
	JEQ  child
	CMPQ AX, $0xfffffffffffff001
	JLS  parent
	NEGQ AX
	MOVQ $0, pid+40(FP)
	MOVQ AX, errno+48(FP)
	RET

parent:
	MOVQ AX, pid+40(FP)
	MOVQ $0, errno+48(FP)
	RET

child:
	XORL BP, BP
	SUBQ $32, SP
	MOVQ R12, 0(SP)
	MOVQ R13, 8(SP)
	MOVQ R13, 16(SP)
	MOVQ R15, 24(SP)
	CALL ·run(SB)
	INT  $3
