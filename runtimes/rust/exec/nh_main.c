/* The main of a handler in C or C++ as a program; compile it together with the handler. See README.md. */
#include <nuclio_handler.h>

int main(int argc, char **argv) { return nh_main(nh_plugin_v1(), argc, argv); }
