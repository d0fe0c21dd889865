#include <nuclio_handler.hpp>

struct Garbage : nuclio::Handler {
    nuclio::Response handle(nuclio::Context &, const nuclio::Event &event) override {
        if (event.path() == "/throw") throw std::logic_error("thrown on purpose");
        if (event.path() == "/status") return nuclio::Response("x").status(42);
        if (event.path() == "/header")
            return nuclio::Response("x").header("bad name", "1").header("X-Split", "a\r\nb: c");
        if (event.path() == "/text") return "\xef\xbf\xbd!";
        return "well";
    }
};

NUCLIO_EXPORT_HANDLER(Garbage)
