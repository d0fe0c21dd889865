#include <nuclio_handler.hpp>

struct Echo : nuclio::Handler {
    nuclio::Response handle(nuclio::Context &, const nuclio::Event &event) override {
        return nuclio::Response().share(event.body());
    }
};

NUCLIO_EXPORT_HANDLER(Echo)
