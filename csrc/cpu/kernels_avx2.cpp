#if defined(__x86_64__)
#define WBCLI_ISA 2
#define WBCLI_KERNELS avx2_kernels
#include "kernels.inl"
#endif
