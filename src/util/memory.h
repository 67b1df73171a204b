// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace vfsguard::util {

// Gives back what a start or a reload has used and what follows does not: free memory of the heap, and pages of the program and its libraries, which are read
// again from the file where they are needed after all. Maps with pages of this process's own (relocations, say) are left as they are.
void give_back_memory();

}  // namespace vfsguard::util
