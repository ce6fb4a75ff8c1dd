/* Linked into the worker of a package: keeps it running on Amazon Linux 2023, whose C library is glibc 2.34.
 *
 * glibc 2.35 gave hypotf a second version, which sets no errno, and a program that was linked on a newer system asks for
 * that one. This asks for the first, which every glibc has; the results are the same. (`make packages` links it with
 * --wrap=hypotf; deploy/package.sh refuses an .rpm that asks for more than 2.34.) */
#ifdef __aarch64__
__asm__(".symver first_hypotf, hypotf@GLIBC_2.17");
#else
__asm__(".symver first_hypotf, hypotf@GLIBC_2.2.5");
#endif

float first_hypotf(float x, float y);

float __wrap_hypotf(float x, float y) { return first_hypotf(x, y); }
