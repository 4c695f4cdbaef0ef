#define WBCLI_ISA 0
#define WBCLI_KERNELS portable_kernels
#include "kernels.inl"
