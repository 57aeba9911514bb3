# cuda.h and nvrtc.h: declarations only; both libraries are opened at run time. Looks in a CUDA toolkit, then in the
# nvidia-cuda-* wheels that scripts/install-dependencies puts into .cuda/.
file(GLOB _cuda_wheel_includes ${CMAKE_SOURCE_DIR}/.cuda/nvidia/*/include)
find_path(CudaHeaders_CUDA_DIR cuda.h
  HINTS $ENV{CUDA_PATH}/include /usr/local/cuda/include ${_cuda_wheel_includes})
find_path(CudaHeaders_NVRTC_DIR nvrtc.h
  HINTS $ENV{CUDA_PATH}/include /usr/local/cuda/include ${_cuda_wheel_includes})
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CudaHeaders REQUIRED_VARS CudaHeaders_CUDA_DIR CudaHeaders_NVRTC_DIR)
if(CudaHeaders_FOUND AND NOT TARGET CudaHeaders::CudaHeaders)
  add_library(CudaHeaders::CudaHeaders INTERFACE IMPORTED)
  set_target_properties(CudaHeaders::CudaHeaders PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${CudaHeaders_CUDA_DIR};${CudaHeaders_NVRTC_DIR}")
endif()
