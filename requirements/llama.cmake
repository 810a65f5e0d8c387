# Read by CMake within llama.cpp's own CMakeLists.txt (CMAKE_PROJECT_llama.cpp_INCLUDE, see ./dev).
# The library for llama.cpp's programs is 53 of the 127 files to compile, the slowest among them. No library that Python loads needs it.
set(LLAMA_BUILD_COMMON OFF)
