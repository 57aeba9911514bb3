# cuda.h and nvrtc.h: declarations only; both libraries are opened at run time. Looks in a CUDA toolkit, then in the
# nvidia-cuda-* wheels that scripts/install-dependencies puts into .cuda/, then in the system's folders.
find_program(CudaHeaders_NVCC nvcc)
mark_as_advanced(CudaHeaders_NVCC)
set(_cuda_roots $ENV{CUDA_PATH} /usr/local/cuda)
if(CudaHeaders_NVCC)
  file(REAL_PATH ${CudaHeaders_NVCC} _cuda_nvcc)
  cmake_path(GET _cuda_nvcc PARENT_PATH _cuda_bin)
  cmake_path(GET _cuda_bin PARENT_PATH _cuda_root)
  list(APPEND _cuda_roots ${_cuda_root})
endif()
list(APPEND _cuda_roots ${PROJECT_SOURCE_DIR}/.cuda/nvidia/cu13)

find_path(CudaHeaders_CUDA_DIR cuda.h HINTS ${_cuda_roots} PATH_SUFFIXES include)
find_path(CudaHeaders_NVRTC_DIR nvrtc.h HINTS ${_cuda_roots} PATH_SUFFIXES include)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CudaHeaders
  REQUIRED_VARS CudaHeaders_CUDA_DIR CudaHeaders_NVRTC_DIR
  REASON_FAILURE_MESSAGE "Run scripts/install-dependencies, or set CUDA_PATH to a CUDA toolkit.")
if(CudaHeaders_FOUND AND NOT TARGET CudaHeaders::CudaHeaders)
  add_library(CudaHeaders::CudaHeaders INTERFACE IMPORTED)
  set_target_properties(CudaHeaders::CudaHeaders PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${CudaHeaders_CUDA_DIR};${CudaHeaders_NVRTC_DIR}")
endif()
