#include <nuclio_handler.hpp>

#include <csignal>
#include <cstdlib>

struct Crash : nuclio::Handler {
    nuclio::Response handle(nuclio::Context &, const nuclio::Event &event) override {
        if (event.path() == "/exit") std::_Exit(7);
        if (event.path() == "/signal") std::raise(SIGKILL);
        if (event.path() == "/fault") *reinterpret_cast<volatile int *>(8) = 1;
        return "alive";
    }
};

NUCLIO_EXPORT_HANDLER(Crash)
