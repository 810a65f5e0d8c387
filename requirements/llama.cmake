# Read by CMake within llama.cpp's own CMakeLists.txt (CMAKE_PROJECT_llama.cpp_INCLUDE, see ./dev).
# The library for llama.cpp's programs is 53 of the 127 files to compile, the slowest among them. No library that Python loads needs it.
set(LLAMA_BUILD_COMMON OFF)

# libllama computes nothing with tensors (ggml does, and keeps its options), so that a lower level of optimization costs a run nothing
# and changes no figure. Its files share most of their headers: those are parsed once.
function(compile_libllama_fast)
    if(MSVC)
        return()
    endif()
    target_compile_options(llama PRIVATE -O1)
    target_precompile_headers(llama PRIVATE <algorithm> <cmath> <functional> <map> <memory> <regex> <set> <sstream> <string> <unordered_map> <vector>)
endfunction()
cmake_language(DEFER CALL compile_libllama_fast)
