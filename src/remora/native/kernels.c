/* Pieces of a training step on CPU that would otherwise be many passes over memory: activations, dropout, attention of
   short sequences, low-rank terms. remora.native builds this file with the machine's own C compiler; every function
   here has a counterpart in torch operations, which is used where there is no compiler and which tests compare with. */

#include "vector.h"
#include "product.h"
#include "activation.h"

#define ELEMENT float
#define LOAD load_float
#define STORE store_float
#define NAME(name) name##_float
#include "template.h"
#undef ELEMENT
#undef LOAD
#undef STORE
#undef NAME

#define ELEMENT bf16
#define LOAD load_bf16
#define STORE store_bf16
#define NAME(name) name##_bf16
#include "template.h"
