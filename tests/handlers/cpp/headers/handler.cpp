#include <nuclio_handler.hpp>

struct Headers : nuclio::Handler {
    nuclio::Response handle(nuclio::Context &, const nuclio::Event &event) override {
        std::string seen(event.header("X-Ask").value_or(""));
        nuclio::Response response("<p>");
        response.content_type("text/html").header("X-Seen", seen).header("X-Number", "7");
        return response.header("X-Twice", "a").header("X-Twice", "b");
    }
};

NUCLIO_EXPORT_HANDLER(Headers)
