#include <nuclio_handler.hpp>

struct Hang : nuclio::Handler {
    nuclio::Response handle(nuclio::Context &, const nuclio::Event &event) override {
        for (volatile bool hangs = event.path() == "/hang"; hangs;) {
        }
        return "back";
    }
};

NUCLIO_EXPORT_HANDLER(Hang)
