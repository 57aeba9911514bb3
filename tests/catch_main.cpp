// main() of every test: Catch2 version 2 makes it here, version 3 brings it along.
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#endif
