#if defined(__x86_64__)
#define WBCLI_ISA 512
#define WBCLI_KERNELS avx512_kernels
#include "kernels.inl"
#endif
