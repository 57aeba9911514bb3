// Carries the precompiled header that all tests share; a test program without a test.
